"""Measure a policy: `python -m dime_robot.runtime.certify policy.onnx`."""

from dime_robot.runtime.telemetry.measure_latency import main

if __name__ == "__main__":
    from dime_robot.runtime.io.command import run_command

    run_command(main)
