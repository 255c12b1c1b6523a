"""Numbers to pictures: Plotly figures and contact sheets. Knows no page and no torch."""
