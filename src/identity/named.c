/*-------------------------------------------------------------------------
 *
 * named.c
 *	  The identifiers by which an entry names somebody: the owner's first,
 *	  then the others that link.
 *
 *	  A graph that has looked at the entry knows them; entries that are folded
 *	  without one are read here, by the same order.
 *
 * IDENTIFICATION
 *	  src/identity/named.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "identity/graph.h"
#include "identity/identity.h"

typedef struct Named
{
	CdpIdentifier *identifier;
	bool		links;
	int			priority;
	int			position;
} Named;

static int
by_strength(const void *a, const void *b)
{
	const Named *x = (const Named *) a;
	const Named *y = (const Named *) b;

	if (x->links != y->links)
		return x->links ? -1 : 1;
	if (x->priority != y->priority)
		return x->priority < y->priority ? -1 : 1;
	return x->position - y->position;
}

static bool
same(const CdpIdentifier *a, const CdpIdentifier *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

CdpIdentifier **
CdpEntryNamed(CdpKindSet *kinds, const CdpEntry *entry, int *n)
{
	CdpIdentifier **result = CdpGraphNamed(entry, n);
	Named	   *named;
	Datum	   *elems;
	bool	   *nulls;
	int			nelems = 0;
	int			nnamed = 0;

	if (result != NULL || entry->identifiers == NULL)
		return result;
	deconstruct_array(entry->identifiers, ARR_ELEMTYPE(entry->identifiers), -1, false,
					  TYPALIGN_INT, &elems, &nulls, &nelems);
	named = (Named *) palloc(sizeof(Named) * Max(nelems, 1));
	for (int i = 0; i < nelems; i++)
	{
		CdpIdentifier *canonical = NULL;
		CdpKind    *kind;
		CdpCanonicalStatus status;

		if (nulls[i])
			continue;
		status = CdpCanonicalise(kinds, (CdpIdentifier *) DatumGetPointer(elems[i]),
								 &canonical, &kind);
		if (status != CDP_CANONICAL_OK && status != CDP_CANONICAL_LABEL)
			continue;
		named[nnamed].identifier = canonical;
		named[nnamed].links = status == CDP_CANONICAL_OK;
		named[nnamed].priority = kind->priority;
		named[nnamed++].position = i;
	}
	qsort(named, nnamed, sizeof(Named), by_strength);

	result = (CdpIdentifier **) palloc(sizeof(CdpIdentifier *) * Max(nnamed, 1));
	for (int i = 0; i < nnamed; i++)
	{
		bool		known = i > 0 && !named[i].links;

		for (int j = 0; j < *n && !known; j++)
			known = same(result[j], named[i].identifier);
		if (!known)
			result[(*n)++] = named[i].identifier;
	}
	return result;
}
