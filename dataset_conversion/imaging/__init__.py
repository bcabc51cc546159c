"""Images: geometry, resampling, intensities, the lung mask."""
