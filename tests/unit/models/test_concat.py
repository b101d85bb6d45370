"""Concatenation: one hidden layer on the time averages side by side."""

from collections.abc import Callable

import torch

from msa_lightning.batch import Batch
from msa_lightning.models.concat import Concatenation

DIMS = {"text": 7, "audio": 5, "visual": 6}


def test_prediction_written_out(make_batch: Callable[..., Batch]) -> None:
    torch.manual_seed(0)
    net = Concatenation(dims=DIMS, outputs={"sentiment": 1}, hidden=8, dropout=0.3).eval()
    batch = make_batch(DIMS, {"sentiment": 1})
    no_audio = batch.masks["audio"].clone()
    no_audio[2] = False
    batch = batch.replace(masks=batch.masks | {"audio": no_audio})
    first, head = net.fusion[0], net.heads["sentiment"]
    for i, prediction in enumerate(net(batch).predictions["sentiment"]):
        real = [batch.features[m][i][batch.masks[m][i]] for m in ("text", "audio", "visual")]
        means = torch.cat([x.mean(0) if len(x) else x.new_zeros(x.shape[1]) for x in real])
        hidden = (first.weight @ means + first.bias).relu()
        torch.testing.assert_close(prediction, head.weight @ hidden + head.bias)
