"""Replay a recording: `python -m dime_robot.runtime.replay flight.npz policy.onnx`."""

from dime_robot.runtime.telemetry.replay import main

if __name__ == "__main__":
    from dime_robot.runtime.io.command import run_command

    run_command(main)
