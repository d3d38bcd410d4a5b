"""`faucetd top`: the live view of a daemon. `rates` and `frame` are pure; `app` is the terminal."""
