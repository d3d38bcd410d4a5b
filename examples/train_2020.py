"""A training script in the interface of 2020: only its import line is of today.

Two epochs of a logistic regression over 20,000 rows of `passengers.py`.
"""

import logging

import torch

from faucet_client import get_client

logging.basicConfig(level=logging.INFO, format="%(message)s")
log = logging.getLogger(__name__)

NUMBERS = ["pclass", "sex", "age", "num_siblings_or_spouses", "family_size", "fare", "has_cabin"]
WIDTH = len(NUMBERS)
net = torch.nn.Sequential(torch.nn.BatchNorm1d(WIDTH), torch.nn.Linear(WIDTH, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=0.05)


def loss_of(batch):
    """The model's loss on one batch."""
    features = batch["features"]
    inputs = features[NUMBERS].fillna(30.0)  # only an age can be missing
    logits = net(torch.tensor(inputs.to_numpy("float32")))
    labels = torch.tensor(batch["labels"][["survived"]].to_numpy("float32"))
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)


def train(batch):
    """One step."""
    net.train()
    optimizer.zero_grad()
    loss_of(batch).backward()
    optimizer.step()


def test(batch):
    """Logs how good the model is."""
    net.eval()
    with torch.no_grad():
        log.info("batch %d: loss %.3f", batch["batch_num"], loss_of(batch))


fml = get_client(
    datastore="bigquery",
    credential_path="bq_creds.json",
    table_name="my-project.my_dataset.my_training_table",
    ds="2020-01-20",
    epochs=2,
    batch_size=1024,
    chunk_size=1024 * 10000,
    test_split_percent=20,
)

for _ in range(2):
    # training
    fml.prep_for_epoch()
    batch = fml.get_batch()
    while batch is not None:
        train(batch)
        batch = fml.get_batch()

    # evaluation
    fml.prep_for_eval()
    batch = fml.get_batch(eval=True)
    while batch is not None:
        test(batch)
        batch = fml.get_batch(eval=True)
