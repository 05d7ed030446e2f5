"""Opens, loads and quantizes base models; added tokens, pooled classifiers, devices."""
