"""Faucet ML beside its peers: the same table, step and batches, in processes of their own.

- Everybody is a **contender**: one module in `contenders/`, run by `program.py` in its own virtual
  environment, as one server perhaps and so many trainers. It imports nothing of Faucet ML, but for
  the one that is Faucet ML.
- `run.py` runs one contender once and measures it from outside: processor time, memory and bytes
  read of all its processes (`processes.py`). A trainer times its `next()` and keeps every key that
  it was given, so that missing and repeated rows are counted, not believed.
- `campaign.py` runs all of them in turn, round after round, and `report.py` writes what came out.
"""
