"""The colours of curves, the same everywhere: Okabe and Ito's, told apart by most colour-blind readers."""

TRAINING = "#0072b2"
VALIDATION = "#d55e00"
RATE = "#009e73"
MARK = "#8a8f98"
EVENT = "#cc79a7"
SEQUENCE = "Blues"
#: of the rates that a curve suggests, 3:1 against both themes; the curve itself has the colour of training
SUGGESTED = {"valley": VALIDATION, "slide": EVENT, "minimum": "#a67c00", "steepest": RATE}
