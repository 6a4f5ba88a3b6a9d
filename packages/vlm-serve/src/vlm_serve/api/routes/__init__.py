"""The endpoints: each reads a body, has it answered, and writes the answer in OpenAI's shape."""
