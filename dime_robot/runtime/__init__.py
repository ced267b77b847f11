"""What runs on the robot: the contract and the control path. Knows neither torch nor MuJoCo."""
