// What every x86-64 or other processor runs.
#include "levels.h"

#define INTERNVL_WIDTH 4
#define INTERNVL_LEVEL baseline
#include "level.inc"
