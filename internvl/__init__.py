"""What every tier of InternVL Serve shares: the contract, errors, tensors, server assembly.

This package imports no tier and no Paddle.
"""
