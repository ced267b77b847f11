"""The robustness suite is part of `evaluate`: `python -m dime_robot.evaluate FILE --suite`."""

import sys

if __name__ == "__main__":
    print("the suite is part of evaluate: python -m dime_robot.evaluate FILE --suite")
    sys.exit(0 if {"-h", "--help"} & set(sys.argv) else 2)
