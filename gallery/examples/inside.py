"""What is inside the net, and what does it see across a folder? Top to bottom, or cell by cell."""

# %% Some pictures: squares cut from scikit-image's photographs
from pathlib import Path

from PIL import Image
from skimage import data

import vizkit

photos = Path("photos")
for name in ("chelsea", "coffee", "rocket"):
    picture = Image.fromarray(getattr(data, name)())
    (photos / name).mkdir(parents=True, exist_ok=True)
    for k in range(6):
        left, top = 40 * k, 15 * k
        picture.crop((left, top, left + 200, top + 200)).save(photos / name / f"{k}.jpg")

# %% The layers by name
model = vizkit.load_model()
for layer in vizkit.list_layers(model.module, (3, 224, 224), fields=False)[:5]:
    print(layer.name, layer.shape)

# %% The first filters, and the maps of a layer
vizkit.filters(model).save("filters.png")
vizkit.activations(model, photos / "chelsea" / "0.jpg", layer="_blocks.4._bn1", count=12).save("maps.png")

# %% One pass over the folder; then anything can be asked
vizkit.scan(model, photos, "index", layers=["_blocks.4._bn1"])
vizkit.patches("index", "_blocks.4._bn1", channels=4, count=5).save("patches.png")
nearest = vizkit.neighbours("index", photos / "coffee" / "0.jpg", count=4)
nearest.save("nearest.png")
print("distances in feature space:", nearest.arrays.tolist())
