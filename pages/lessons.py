"""Lessons: the contents list, from a tensor to a fine-tuned network of one's own."""

import streamlit as st

from dlkit.catalog.topics import PARTS, TOPICS

st.title("Lessons")
st.caption(
    "From a tensor to a network of your own. Each opens a view that computes what it shows, with a text and the code; "
    "the layers and the last part are those of a real network, and of your own when you have trained one."
)
number = 0
for part in PARTS:
    st.subheader(part)
    grid = st.grid(columns=3, min_column_width=260)
    for topic in TOPICS.values():
        if topic.part == part:
            number += 1
            with grid, st.container(border=True, height="stretch"):
                st.page_link(f"{topic.page}.py", label=f"**{number}. {topic.title}**", query_params=topic.parameters)
                st.caption(topic.summary)
