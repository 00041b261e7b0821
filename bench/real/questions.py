"""Questions to a small chat model: twenty of many sorts, whose answers are long enough to drift apart."""

QUESTIONS = (
    "What is the capital of Portugal, and why is it on a river?",
    "Explain to a ten-year-old how a bicycle stays upright.",
    "Write a Python function that tells whether a word is a palindrome, with two examples.",
    "Write a short letter to a neighbour who plays the trumpet at night.",
    "What is the difference between weather and climate?",
    "Give me a recipe for tomato soup for four people.",
    "Name eight rivers in Europe and a city on each.",
    "Tell a story about a robot who wants to learn to swim.",
    "What happens in the body when we sneeze?",
    "Turn this into JSON: Nora, 28, carpenter; Ivan, 41, baker; Tomoko, 35, pilot.",
    "Summarise the story of Cinderella in five sentences.",
    "Write a poem of eight lines about an old umbrella.",
    "How do I remove a coffee stain from a white shirt?",
    "What are prime numbers, and how many are there below thirty?",
    "Explain what a database index is and when it does harm.",
    "Erzähle mir in drei Sätzen, was eine Brücke ist.",
    "Who was Ada Lovelace?",
    "Write an HTML table with three planets and their number of moons.",
    "What is 23 plus 48? Explain each step.",
    "List the advantages and disadvantages of living in a small town.",
)
