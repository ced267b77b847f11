"""What runs on the robot: contract, policy and control loop, without torch and MuJoCo."""

import os

# pydantic searches all installed packages for plugins when the first model is defined. No other
# package should alter what a robot trusts, and the search takes a tenth of the start-up.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
