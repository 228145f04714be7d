"""Train a net, hear what is wrong with a training, look into what was trained. Top to bottom."""

# %% Scikit-learn's digits, a small net, a report in `run/report.html`
import torch
from torch import nn

import vizkit

made = vizkit.train("digits", "run", net="simple", epochs=2)
print(f"{100 * made.test['accuracy']:.1f} % of the test set")

# %% Every technique takes it
model = vizkit.load_model(made.model)
vizkit.filters(model).save("filters.png")

# %% Your own loop, with a fault in it: is it found?
digits = vizkit.load_data("digits").train
inputs, labels = digits.images.float().flatten(1) / 255, digits.labels
net = nn.Sequential(nn.Linear(inputs.shape[1], 32), nn.ReLU(), nn.Linear(32, 10), nn.Softmax(dim=1))
optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
with vizkit.diagnosing() as found:
    for start in range(0, 1280, 32):
        optimiser.zero_grad()
        part = slice(start, start + 32)
        nn.functional.cross_entropy(net(inputs[part]), labels[part]).backward()
        optimiser.step()
print(found.findings[0].title)
