/*-------------------------------------------------------------------------
 *
 * nearest.c
 *	  Hints: which of the names that exist is meant by one that does not.
 *
 * IDENTIFICATION
 *	  src/segments/nearest.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/varlena.h"

#include "segments/predicate.h"

/* Nobody misspells more than this, and longer names cost more to compare. */
#define MAX_DISTANCE	3
#define MAX_LENGTH		128

void
CdpNearestBegin(CdpNearest *nearest, const char *wanted)
{
	int			length = strlen(wanted);

	nearest->wanted = wanted;
	nearest->found = NULL;
	nearest->distance = Min(MAX_DISTANCE, Max(1, (length + 2) / 3)) + 1;
}

/*
 * Look at a name that exists; it is kept, not copied, when it is nearer than
 * those before.
 */
void
CdpNearestTry(CdpNearest *nearest, const char *name)
{
	int			wanted_length = strlen(nearest->wanted);
	int			length = strlen(name);
	int			distance;

	if (wanted_length == 0 || wanted_length > MAX_LENGTH || length > MAX_LENGTH ||
		abs(wanted_length - length) >= nearest->distance)
		return;
	distance = varstr_levenshtein_less_equal(nearest->wanted, wanted_length,
											 name, length, 1, 1, 1,
											 nearest->distance, true);
	if (distance < nearest->distance)
	{
		nearest->distance = distance;
		nearest->found = name;
	}
}
