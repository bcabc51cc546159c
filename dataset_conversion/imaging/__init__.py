"""Works on images: geometry, resampling, intensities, and the lung mask."""
