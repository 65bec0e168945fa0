"""One raw dataset made of several: a union label space, label maps renumbered, images left where they are."""
