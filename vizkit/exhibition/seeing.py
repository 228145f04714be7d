"""The rooms of what looks at a net and its answers."""

from vizkit.exhibition.shots import DEEPER, Exhibit, Room, Shot, at_layers

FILTERS = Room(
    "filters",
    "First-layer filters",
    "What a net looks for first: the weights of its first convolution, and what they and the layers "
    "above make "
    "of a picture.",
    (
        Exhibit(
            "filters",
            (
                Shot(
                    "filters",
                    "filters",
                    "The 32 filters of the first convolution: edges in every direction, and pairs of "
                    "opposite "
                    "colours.",
                    "A grid of 32 tiny colour pictures: striped edges at many angles, blobs of green against "
                    "pink and blue against orange, some nearly plain grey.",
                ),
                Shot(
                    "filters-frequency",
                    "filters --frequency",
                    "The same filters by the frequencies that they pass; the middle of a tile is an even "
                    "grey.",
                    "The same grid as Fourier magnitudes: pairs of bright spots on either side of each "
                    "tile's middle.",
                ),
            ),
        ),
        Exhibit(
            "activations",
            (
                Shot(
                    "activations",
                    "activations {cat}",
                    "The strongest channels of layers of all depths: first the cat, then parts of it, then "
                    "places.",
                    "Rows of grey maps of a cat's head, one row a layer; the upper ones show fur and "
                    "eyes, the "
                    "lower ones coarser and coarser blocks.",
                    wide=True,
                ),
                *at_layers(
                    "activations-layer",
                    "activations {cat} --layer {layer} --count 12",
                    DEEPER,
                    "Twelve maps of layer {layer} over the photograph of a cat.",
                ),
            ),
        ),
        Exhibit(
            "receptive_field",
            (
                Shot(
                    "receptive-field",
                    "receptive-field {cat}",
                    "What units of growing depth can see (frame), and what of it counts (light).",
                    "A cat's head several times over; a frame that grows from picture to picture until it "
                    "holds all, and in it a bright spot that grows more slowly.",
                ),
            ),
        ),
    ),
)

PATCHES = Room(
    "patches",
    "Patches",
    "What drives a channel, of a whole folder of pictures: here squares cut from the sample photographs.",
    (
        Exhibit(
            "patches",
            (
                Shot(
                    "patches-early",
                    "patches work/index _blocks.4._bn1 --channels 6",
                    "An early layer: each row is a channel, and what excites it most.",
                    "Rows of small patches that are alike within a row: slanted lines, edges against black, "
                    "curved rims.",
                    needs=("index",),
                ),
                Shot(
                    "patches-late",
                    "patches work/index _blocks.10._bn2 --channels 6",
                    "A late one: rows become things.",
                    "Rows of larger patches: eyes of a cat, cups, spokes of a wheel, roofs of a pagoda.",
                    needs=("index",),
                ),
            ),
        ),
        Exhibit(
            "neighbours",
            (
                Shot(
                    "neighbours",
                    "neighbours work/index {cat} {cup} {pagoda}",
                    "Nearest to the whole photographs, by features and by pixels.",
                    "Three photographs with a row of nearest squares each; by features they show the same "
                    "thing, by pixels often only the same colours.",
                    needs=("index",),
                ),
            ),
        ),
        Exhibit(
            "summary",
            (
                Shot(
                    "summary",
                    "summary work/index --layers _blocks.4._bn2 --count 6",
                    "A table of every channel: its patches, its folder, its class; sorts and searches.",
                    "",
                    ending="html",
                    needs=("index",),
                ),
            ),
        ),
    ),
)

OCCLUSION = Room(
    "occlusion",
    "Occlusion",
    "Hide a part and see what the score loses: no gradient, nothing to believe.",
    (
        Exhibit(
            "occlusion",
            (
                Shot(
                    "occlusion",
                    "occlusion {rocket}",
                    "Where hiding lowers the score.",
                    "A rocket between towers, and the same with the rocket's upper part glowing: hiding it "
                    "lowers the score most.",
                    quick="--stride 32",
                ),
                Shot(
                    "occlusion-fine",
                    "occlusion {cup} --window 24 --stride 8",
                    "A smaller window, a closer raster.",
                    "A cup of espresso, and a map in which the coffee's surface and the rim stand out.",
                    quick="--stride 24",
                ),
            ),
        ),
        Exhibit(
            "rise",
            (
                Shot(
                    "rise",
                    "rise {cup} --masks 1000",
                    "Random masks instead of a window; works on any black box.",
                    "A cup of espresso under a soft map that is brightest over the coffee.",
                    quick="--masks 60",
                ),
            ),
        ),
    ),
)

SALIENCY = Room(
    "saliency",
    "Saliency",
    "One backward pass: how much does each pixel move the score?",
    (
        Exhibit(
            "saliency",
            (
                Shot(
                    "saliency",
                    "saliency {cat}",
                    "The plain gradient.",
                    "A cat's head, and a grainy map of it that is brightest around eyes and nose.",
                ),
                Shot(
                    "saliency-smooth",
                    "saliency {cat} --samples 25",
                    "The mean over 25 noisy copies (SmoothGrad): the same, calmer.",
                    "The same map with less grain: eyes, nose and whiskers' roots stand out.",
                    quick="--samples 4",
                ),
            ),
        ),
        Exhibit(
            "integrated_gradients",
            (
                Shot(
                    "integrated-gradients",
                    "integrated-gradients {dahlia}",
                    "What each pixel adds to the score, compared with black; the sum is the score.",
                    "A dahlia, and a map of red and blue dots that are densest on its petals.",
                    quick="--steps 8",
                ),
            ),
        ),
        Exhibit(
            "segment",
            (
                Shot(
                    "segment",
                    "segment {dahlia}",
                    "The object, found by the map and cut out by its colours.",
                    "A dahlia; the seeds of flower and background; the flower cut out along its petals.",
                ),
            ),
        ),
    ),
)

GUIDED = Room(
    "guided",
    "Guided backprop, Grad-CAM and kin",
    "Fine detail, or the right place, or both; and how to find out which of them to trust.",
    (
        Exhibit(
            "guided_backprop",
            (
                Shot(
                    "guided-backprop",
                    "guided-backprop {cat}",
                    "Crisp, but more a picture of the picture than of the class: see the sanity check below.",
                    "A cat's head as fine lines: every hair, the eyes, the whiskers.",
                ),
            ),
        ),
        Exhibit(
            "deconvnet",
            (
                Shot(
                    "deconvnet",
                    "deconvnet {cat}",
                    "The older rule, which forgets what was below zero on the way up.",
                    "A cat's head as lines with a regular grain over them.",
                ),
            ),
        ),
        Exhibit(
            "grad_cam",
            (
                Shot(
                    "grad-cam",
                    "grad-cam {motorcycle}",
                    "Where the last layer holds what raises the score.",
                    "A motorcycle in a garage, with a warm cloud over the machine.",
                ),
                *[
                    Shot(
                        f"grad-cam-{variant.replace('+', 'p')}",
                        f"grad-cam {{motorcycle}} --variant {variant} --layout overlay --width 640",
                        "",
                        f"The motorcycle under the map of {variant}.",
                        steps="grad-cam-variants",
                        label=variant,
                        themed=False,
                    )
                    for variant in (
                        "gradcam",
                        "gradcam++",
                        "hirescam",
                        "layercam",
                        "xgradcam",
                        "eigencam",
                        "scorecam",
                        "ablationcam",
                    )
                ],
            ),
        ),
        Exhibit(
            "guided_grad_cam",
            (
                Shot(
                    "guided-grad-cam",
                    "guided-grad-cam {cat}",
                    "The detail of the one where the other sees the class.",
                    "The fine lines of a cat's face, fading out towards the background.",
                ),
            ),
        ),
        Exhibit(
            "compare",
            (
                Shot(
                    "compare",
                    "compare {cup}",
                    "One question to every technique.",
                    "A sheet of twelve pictures: a cup of espresso, and what eleven techniques say its "
                    "answer "
                    "rests on; most light up the coffee.",
                    wide=True,
                    quick="--methods saliency,grad_cam,occlusion:stride=48",
                ),
            ),
        ),
        Exhibit(
            "sanity_check",
            (
                Shot(
                    "sanity-check",
                    "sanity-check {cat}",
                    "Maps while the net's weights are made random: what does not change explains nothing.",
                    "Rows of maps for five techniques and an edge map, from the trained net on the left to a "
                    "random one on the right; guided backprop hardly changes at first, Grad-CAM at once.",
                    wide=True,
                    quick="--methods saliency,grad_cam",
                ),
            ),
        ),
    ),
)
