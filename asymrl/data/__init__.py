"""The data of a run: from a local file or a data set on the Hugging Face hub to problems with
rendered prompts, in the order in which training draws them."""
