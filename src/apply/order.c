/*-------------------------------------------------------------------------
 *
 * order.c
 *	  Things of a batch in the order of their numbers.
 *
 *	  The numbers stand beside the pointers, so that comparing two of thousands
 *	  does not fetch what they belong to.
 *
 * IDENTIFICATION
 *	  src/apply/order.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/batch.h"

static inline int
compare(const CdpNumbered *a, const CdpNumbered *b)
{
	if (a->number != b->number)
		return a->number < b->number ? -1 : 1;
	return a->then < b->then ? -1 : a->then > b->then ? 1 : 0;
}

#define ST_SORT CdpNumberedSort
#define ST_ELEMENT_TYPE CdpNumbered
#define ST_COMPARE(a, b) compare(a, b)
#define ST_SCOPE
#define ST_DEFINE
#include "lib/sort_template.h"
