"""Simulated screens with the design of RxRx1: plate layouts, cell images, technical noise.

Used by the ``simulation`` pipeline (input of the demo) and by the tests, as ground truth.
"""
