"""What inputs and outputs of an exported model are called: as the Ultralytics family calls them."""

INPUT, OUTPUTS = "images", ("output0", "output1")
