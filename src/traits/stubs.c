#include "postgres.h"
#include "traits/traits.h"
#define NYI elog(ERROR, "traits: not built yet")
CdpTraitSet *CdpTraitSetGet(int64 generation){NYI;return NULL;}
CdpTrait *CdpTraitByName(CdpTraitSet *set, const char *name){NYI;return NULL;}
CdpTrait *CdpTraitById(CdpTraitSet *set, int32 id){NYI;return NULL;}
CdpTrait *CdpTraitResolve(CdpTraitSet *set, const char *name, bool *created){NYI;return NULL;}
void CdpTraitsEvaluate(CdpTraitSet *set, const Bitmapset *only, CdpEntry *entries, int n, CdpContributions *out){NYI;}
CdpNodeAcc *CdpNodeOpen(CdpTraitSet *set, struct varlena *disk){NYI;return NULL;}
void CdpNodeReset(CdpNodeAcc *acc, const Bitmapset *only){NYI;}
void CdpNodeFold(CdpNodeAcc *acc, const CdpEntry *entry, const CdpContributions *c, bool declared){NYI;}
struct varlena *CdpNodeClose(CdpNodeAcc *acc, TimestampTz clock){NYI;return NULL;}
void CdpProfileEvaluate(CdpTraitSet *set, CdpNodeAcc **nodes, int nnodes, TimestampTz now, CdpProfileValues *out){NYI;}
Jsonb *CdpProfileTraitsJson(CdpTraitSet *set, CdpNodeAcc **nodes, int nnodes, TimestampTz now){NYI;return NULL;}
Datum CdpValueToJsonb(Datum value, bool isnull, Oid type){NYI;return 0;}
int32 CdpHiddenTrait(CdpAggregate aggregate, const char *event, const char *value, const char *filter, const char *within, const char *timezone, bool *created){NYI;return 0;}
void CdpDependsSet(const char *kind, int32 id, const List *trait_ids){NYI;}
void CdpHiddenTraitsPrune(void){NYI;}
