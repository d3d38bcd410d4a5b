"""Code generated from protos/faucet by `make protos`; checked in, never edited."""
