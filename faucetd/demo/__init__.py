"""What `faucetd demo` runs. The part to learn the client from is `trainer.py`."""
