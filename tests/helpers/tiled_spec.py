"""The key `views` of a spec with tiles and every option of their arrangement."""

TILES = {"tiles": "anyres", "arrangement": "rows", "unpad": True, "newline": True}
