"""Why did the network say that? Run it from top to bottom, or cell by cell in an editor that knows `# %%`."""

# %% A picture, a model, an answer
from skimage import data

import vizkit

model = vizkit.load_model()
cat = data.chelsea()
saliency = vizkit.saliency(model, cat, samples=8)
for guess in saliency.prediction[:3]:
    print(f"{guess.label:15} {100 * guess.probability:.1f} %")
saliency.save("saliency.png")

# %% Where a layer holds what speaks for two classes, on one scale
for name in ("tabby", "lynx"):
    vizkit.grad_cam(model, cat, target=name).save(f"{name}.png", layout="overlay")

# %% Beyond doubt: hide things and look
hidden = vizkit.occlusion(model, cat, window=64, stride=32)
row, column = divmod(int(hidden.values.argmax()), hidden.values.shape[1])
print(f"hiding the surroundings of ({row}, {column}) lowers the score most, by {hidden.values.max():.2f}")

# %% Which of them can be trusted? Numbers, beside two controls that know nothing of the net
table = vizkit.evaluate(
    model, [cat], methods=["saliency", "grad_cam"], metrics="insertion,deletion", steps=16
)
print(table.to_markdown())
