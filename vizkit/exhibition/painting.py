"""The rooms of what is painted."""

from vizkit.exhibition.shots import DEEPER, PAINTED, Exhibit, Room, Shot, at_layers

CLASSES = Room(
    "class-images",
    "Class images",
    "Start from noise, climb the score: what would the perfect volcano be?",
    (
        Exhibit(
            "class_image",
            (
                Shot(
                    "class-images",
                    'class-image volcano ostrich "school bus" monarch strawberry "tree frog" jellyfish '
                    'goldfish "giant panda" flamingo --layout figure',
                    "Ten classes, painted by the net that knows them.",
                    "Ten bright pictures: a smoking cone with glowing slopes, the head of an ostrich, yellow "
                    "buses, orange wings, strawberries, a green frog, a jellyfish, goldfish, a panda's "
                    "face, flamingos' necks.",
                    wide=True,
                    quick="--preview",
                ),
                Shot(
                    "class-image",
                    "class-image jellyfish --snapshots 6",
                    "",
                    "A jellyfish that grows out of coloured noise.",
                    steps="class-image",
                    **PAINTED,
                ),
            ),
        ),
        Exhibit(
            "unit_image",
            (
                Shot(
                    "unit-images-early",
                    "unit-image _blocks.3._act1:73 _blocks.3._act1:131 _blocks.3._bn2:20 _blocks.3._bn2:16",
                    "Channels of an early layer: rings, stripes, folds and dots.",
                    "Four squares of regular patterns: dark rings, slanted stripes, folds, spots.",
                    wide=True,
                    quick="--preview",
                ),
                Shot(
                    "unit-images-late",
                    "unit-image _blocks.9._bn2:3 _blocks.9._bn2:7 _blocks.9._bn2:11 _blocks.9._bn2:19",
                    "Channels of a late one: parts of things.",
                    "Four squares with larger shapes that recall fur, eyes, plumage and buildings.",
                    wide=True,
                    quick="--preview",
                ),
            ),
        ),
        Exhibit(
            "fool",
            (
                Shot(
                    "fool",
                    "fool {cat} --target koala --layout figure",
                    "A change too small to see makes the cat a koala.",
                    "Two photographs of a cat that look the same, the one called tiger cat, the other koala, "
                    "and between them the coloured noise that was added, enlarged.",
                    ending="png",
                    themed=False,
                    wide=True,
                ),
            ),
        ),
    ),
)

DREAMS = Room(
    "deepdream",
    "DeepDream",
    "Bring out in a photograph what a layer sees in it.",
    (
        Exhibit(
            "deepdream",
            (
                Shot(
                    "deepdream",
                    "deepdream {cup}",
                    "The cup, before and after: the last layers see animals everywhere.",
                    "A cup of espresso in which small furry faces grow on coffee, saucer and table.",
                    before="cup",
                    **PAINTED,
                ),
                *at_layers(
                    "deepdream-layer",
                    "deepdream {pagoda} --layer {layer}",
                    ("_blocks.3", "_blocks.5", "_blocks.7", "_blocks.9"),
                    "A pagoda by a lake, overgrown with what layer {layer} sees.",
                    **PAINTED,
                ),
            ),
        ),
    ),
)

INVERSION = Room(
    "inversion",
    "Inversion",
    "Paint a picture that a layer cannot tell from the photograph: what is missing, the layer has thrown "
    "away.",
    (
        Exhibit(
            "invert",
            at_layers(
                "invert",
                "invert {cat} --layer {layer} --layout picture",
                DEEPER,
                "A cat's head painted from what layer {layer} kept.",
                **PAINTED,
            ),
        ),
    ),
)

TEXTURE = Room(
    "texture",
    "Texture",
    "New texture with the statistics of a picture's: nothing is copied.",
    (
        Exhibit(
            "texture",
            (
                Shot(
                    "texture-gravel",
                    "texture {gravel} --size 384 --source-size 384",
                    "Gravel, the photograph and the synthesis.",
                    "Gravel made of new stones.",
                    before="gravel",
                    **PAINTED,
                ),
                Shot(
                    "texture-tissue",
                    "texture {tissue}",
                    "Stained tissue, the photograph and the synthesis.",
                    "Brown cells and blue fibres in a new arrangement.",
                    before="tissue",
                    **PAINTED,
                ),
            ),
        ),
    ),
)

STYLE = Room(
    "style",
    "Style",
    "One picture's content in another's texture.",
    (
        Exhibit(
            "style_transfer",
            (
                Shot(
                    "style-tissue",
                    "style-transfer {pagoda} {tissue}",
                    "The pagoda in the manner of stained tissue.",
                    "A pagoda drawn in brown and blue fibres, like a pencil drawing on old paper.",
                    before="pagoda",
                    **PAINTED,
                ),
                Shot(
                    "style-dahlia",
                    "style-transfer {cat} {dahlia}",
                    "The cat in a dahlia's colours.",
                    "The cat's head in petrol and orange, as if lit by a lamp behind leaves.",
                    before="cat",
                    **PAINTED,
                ),
            ),
        ),
    ),
)
