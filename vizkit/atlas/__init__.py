"""The microscope: a folder of pages that explains a whole network, layer by layer and channel by channel."""
