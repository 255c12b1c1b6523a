"""The colours of curves, the same everywhere: Okabe and Ito's, told apart by most colour-blind readers."""

TRAINING = "#0072b2"
VALIDATION = "#d55e00"
RATE = "#009e73"
MARK = "#8a8f98"
EVENT = "#cc79a7"
SEQUENCE = "Blues"
#: of the rates that a curve suggests, 3:1 against both themes; the curve itself has the colour of training
SUGGESTED = {"valley": VALIDATION, "slide": EVENT, "minimum": "#a67c00", "steepest": RATE}
#: told apart by most colour-blind readers, on light and on dark: Okabe and Ito's, then Tol's
COLOURS = (
    "#0072b2",
    "#e07020",
    "#009e73",
    "#cc79a7",
    "#a67c00",
    "#56a5d8",
    "#d04040",
    "#7a5fb5",
    "#5c8a3a",
    "#8a8f98",
    "#b5548e",
    "#2f8f8f",
    "#946b4a",
    "#6b7fd6",
)
