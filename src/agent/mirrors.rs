//! The agent's way to the mirrors: asks one after the other until one answers.
