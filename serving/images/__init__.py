"""Pictures for the answer: a heatmap drawn over the image it explains. Decoding is `xtrain.images`."""
