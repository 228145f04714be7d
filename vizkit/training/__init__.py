"""The training stack: data, layers, losses, networks, and the loop that trains them."""
