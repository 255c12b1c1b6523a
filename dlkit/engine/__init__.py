"""Everything that touches the tensors of a real model. Imports torch; knows no store, no page and no process."""
