"""The contract: what a policy was trained with, what a robot is, and whether the two fit."""
