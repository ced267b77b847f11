"""Convert a flight recording: `python -m dime_robot.runtime.recording flight.npz`."""

from dime_robot.runtime.telemetry.recording import main

if __name__ == "__main__":
    from dime_robot.runtime.io.command import run_command

    run_command(main)
