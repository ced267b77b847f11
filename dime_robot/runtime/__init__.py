"""What runs on the robot: the contract and the control path. Knows neither torch nor MuJoCo."""

import os

# pydantic searches all installed packages for plugins when the first model is defined. Nothing
# foreign should hook into what a robot trusts, and the search is a tenth of the start-up.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
