"""Reports: pages of HTML that need no network, and figures for papers.

sources.py         what the folders of sweeps hold
charts.py          the figures, as plotly draws them
page.py            the page on sweeps, from page.html, page.js and, as every page, page.css and figures.js
profile_page.py    the page on one ONNX file, from profile.html and profile.js, with the figures of profile_charts.py
"""
