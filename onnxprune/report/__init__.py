"""The report: sweeps as one page of HTML that needs no network.

sources.py  what the folders of sweeps hold
charts.py   the figures, as plotly draws them
page.py     the whole page, from page.html, page.css and page.js
"""
