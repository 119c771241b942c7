/*-------------------------------------------------------------------------
 *
 * sources.h
 *	  Entries that may say something of a node, read from the log.
 *
 * IDENTIFICATION
 *	  src/apply/sources.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_SOURCES_H
#define CDP_SOURCES_H

#include "apply/batch.h"

/*
 * Entries of an owner that have to be read: all of a time, or, where it is not
 * whole, of those only the ones that name certain others.
 */
typedef struct CdpSource
{
	int64		owner;
	TimestampTz since;
	TimestampTz until;
	bool		whole;
} CdpSource;

typedef struct CdpSources
{
	CdpSource  *list;
	int64		n;
	int64		max;
} CdpSources;

/* whole: all entries of that time, else those that name certain nodes */
extern void CdpSourceAdd(CdpSources *sources, int64 owner, TimestampTz since, TimestampTz until,
						 bool whole);
/* The entries of the owner that may name this node. */
extern void CdpSourceAddFor(CdpBatch *batch, CdpSources *sources, int64 owner, const CdpNode *node);
/* nodes: which others, in order; n: how many entries are returned. */
extern CdpEntry *CdpSourcesLoad(CdpBatch *batch, CdpSources *sources, const int64 *nodes, int nnodes,
								int *n);
/* All entries that these nodes own. */
extern CdpEntry *CdpLoadOwned(CdpBatch *batch, int64 *owners, int nowners, int *n);

#endif							/* CDP_SOURCES_H */
