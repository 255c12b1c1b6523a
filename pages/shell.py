"""The frame around every page: navigation, the machine, and the work that goes on."""

import streamlit as st

from pages.parts.frame import show_frame
from pages.parts.notices import told

pages = {
    "Build": [
        st.Page("home.py", title="Start", icon=":material/home:", default=True),
        st.Page("data.py", title="Data", icon=":material/photo_library:"),
        st.Page("train.py", title="Train", icon=":material/model_training:"),
        st.Page("runs.py", title="Runs", icon=":material/monitoring:"),
        st.Page("predict.py", title="Classify", icon=":material/image_search:"),
    ],
    "Understand": [
        st.Page("lessons.py", title="Lessons", icon=":material/school:"),
        st.Page("tensors.py", title="Tensors", icon=":material/grid_on:"),
        st.Page("descent.py", title="Descent", icon=":material/moving:"),
        st.Page("network.py", title="Network", icon=":material/hub:"),
        st.Page("layers.py", title="Layers", icon=":material/layers:"),
    ],
}

st.set_page_config(page_title="dlkit studio", page_icon="🌻", layout="wide")
page = st.navigation(pages)
with told():  # a store that cannot be used just now is a sentence on whatever page
    show_frame()
with told():
    page.run()
