"""Runs the whole system on one machine.

from deploy.launcher import LaunchConfig, launch

with launch(LaunchConfig()) as stack:
    print(stack.gateway_address)
"""

from deploy.launcher.config import LaunchConfig, Ports
from deploy.launcher.stack import LaunchError, Stack, launch

__all__ = ["LaunchConfig", "LaunchError", "Ports", "Stack", "launch"]
