from classy_vision.cli import main

main()
