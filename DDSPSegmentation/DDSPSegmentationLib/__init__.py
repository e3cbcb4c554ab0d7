"""Prostate segmentation of T2-weighted MRI with the DDSP ConNet (Liu et al. 2018)."""

__version__ = "0.1.0"
