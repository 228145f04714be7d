"""Paint with the net: in few steps here; leave `preview` out for the pictures you want."""

# %% What would the perfect volcano be?
from skimage import data

import vizkit

model = vizkit.load_model()
volcano = vizkit.class_image(model, "volcano", preview=True)
volcano.save("volcano.png")
print(volcano.details)

# %% A change too small to see
fooled = vizkit.fool(model, data.chelsea(), target="koala")
fooled.save("fooled.png")
print("now a", fooled.prediction[0].label, "by", fooled.details["steps"], "steps")

# %% More of what the net sees
vizkit.deepdream(model, data.coffee(), preview=True).save("dream.png")
