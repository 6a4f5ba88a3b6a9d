"""The choice of tokens: sampling parameters, grammars, log probabilities, and the text that tokens become."""
