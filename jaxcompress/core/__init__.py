"""The core room: the leaf protocol, paths, lift, sites, observe. It knows no compression method."""
