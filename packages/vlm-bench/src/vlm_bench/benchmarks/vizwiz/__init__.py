"""VizWiz: questions of blind people about their photographs, some of which cannot be answered."""
