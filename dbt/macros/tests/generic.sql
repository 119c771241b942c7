{# Every identifier of the column is in the segment (or, with is_member: false, is not). #}
{% test in_segment(model, column_name, segment, kind='user_id', is_member=true) %}
select {{ column_name }}
from {{ model }}
where {{ column_name }} is not null
  and cdp.in_segment({{ cdp.cdp_identifier(kind, column_name) }}, {{ dbt.string_literal(segment) }}) is distinct from {{ is_member }}
{% endtest %}

{# Every identifier of the column is known. #}
{% test resolves(model, column_name, kind='user_id') %}
select {{ column_name }}
from {{ model }}
where {{ column_name }} is not null and {{ cdp.cdp_profile_id(kind, column_name) }} is null
{% endtest %}

{# What is kept up to date is what plain SQL computes from the log: reads the whole log. #}
{% test no_differences(model) %}
select station, key, expected, found from cdp.verify()
{% endtest %}
